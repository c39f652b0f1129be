"""What reads a callback as it arrived: its codings, its parameters, and mentions of a number."""
