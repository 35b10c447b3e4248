"""Data: <environment>/<task>/<method>.yaml, one file per experiment, read by pr2l.core.config."""
