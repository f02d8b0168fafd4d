"""What came out: records, the folder that keeps them, tables and plots. Read without JAX."""
