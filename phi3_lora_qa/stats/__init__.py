"""Paired comparisons: is the tuned model better, and nowhere worse, on the same items?"""
