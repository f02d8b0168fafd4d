"""Who is best over many questions, and how sure that is. `docs/ranking.md` explains the method."""
