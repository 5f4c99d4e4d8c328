"""What commands give for other programs: JSON and metrics."""
