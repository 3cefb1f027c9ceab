"""Tests run in the project's directory, wherever pytest was started: Luigi reads luigi.cfg from there."""

import os

os.chdir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
