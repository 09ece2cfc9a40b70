"""Virtual time: modelled guests and links for the engine."""
