""".search"""
