"""The operators, and what they do step by step."""
