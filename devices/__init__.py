""".devices"""
