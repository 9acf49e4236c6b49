"""All levels over a recorded log, variant by variant, and what each of them is worth."""
