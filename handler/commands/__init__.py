"""What a person or fioconfig can ask for."""
