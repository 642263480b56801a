""".latency"""
