"""Data sets on which a head is judged that was trained on others."""
