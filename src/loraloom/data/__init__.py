"""From a raw folder to a dataset: inspect, decode, crop, split, write, report; and from a dataset to batches."""
