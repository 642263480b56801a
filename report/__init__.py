""".report"""
