""".export"""
