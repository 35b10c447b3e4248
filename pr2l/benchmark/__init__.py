"""Benchmark suites, their rows, reports and the leaderboard."""
