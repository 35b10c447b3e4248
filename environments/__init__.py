"""Simulators behind the Gymnasium interface, one package each; independent of VLMs and of the rest of pr2l."""
