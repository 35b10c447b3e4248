"""Benchmark suites, the rows of their runs, reports and the leaderboard."""
