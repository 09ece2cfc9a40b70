"""Guests, clocks and links that tests share; small, but they do what they say."""
