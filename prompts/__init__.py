"""Data: <environment>/<task>/<variant>.yaml, read by pr2l.core.prompt."""
