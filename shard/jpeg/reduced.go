package jpeg

// reduced transforms a block to fewer than 8 samples on a side.
func reduced(j *job) bool {
	return false
}
