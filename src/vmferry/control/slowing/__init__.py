"""How a guest is slowed from outside."""
