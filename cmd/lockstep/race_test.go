//go:build race

package main

// underRace: the commands run several times slower.
const underRace = true

// faultySteps is the length of runs that something happens to after their first steps. With the race detector a step takes a second.
const faultySteps = 12
