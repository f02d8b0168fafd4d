"""The report: one HTML file that shows every record, whose numbers lead back to them."""
