//go:build race

package allreduce

// raceDetector says that pools drop at random, as the race detector has them do.
const raceDetector = true
