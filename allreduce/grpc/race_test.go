//go:build race

package ringgrpc

// raceDetector says that pools drop at random, as the race detector has them do.
const raceDetector = true
