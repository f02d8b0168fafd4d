"""Which question: one file per protocol, from a backbone and a data set to scores."""
