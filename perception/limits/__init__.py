"""What physics allows: the Cramer-Rao bound of a frame, and the Bayes limit where no unbiased estimator helps."""
