"""Types, errors, configs, the plug-in registry, prompts and statistics: the package below all others of pr2l."""
