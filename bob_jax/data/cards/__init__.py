"""What is known of each data set before it is there: a family a file."""
