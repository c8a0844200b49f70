//go:build race

package jpeg

func init() { raceDetector = true }
