"""Simulators, one file each, behind the Gymnasium interface; nothing here knows of VLMs or of pr2l."""
