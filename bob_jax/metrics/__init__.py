"""How good, and how sure: scores over test examples, and their intervals."""
