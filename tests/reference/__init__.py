"""Plain and slow implementations from papers and other libraries alone, which the product is compared with."""
