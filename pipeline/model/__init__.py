"""The model: what travels to the Hub."""
