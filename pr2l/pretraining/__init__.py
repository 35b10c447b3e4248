"""Training and fine-tuning of VLMs on questions about simulator frames."""
