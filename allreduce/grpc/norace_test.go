//go:build !race

package ringgrpc

const raceDetector = false
