"""Types, errors, configuration, the plug-in registry, prompts and statistics; imports nothing else of pr2l."""
