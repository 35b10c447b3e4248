"""How good a prompt is: scores, search, and correlation with what a policy reaches."""
