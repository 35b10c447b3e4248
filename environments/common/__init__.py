"""Parts that several environments share: the actions on a touch screen, their formats, spaces and drawings."""
