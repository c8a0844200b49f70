//go:build race

package main

// underRace: the commands run several times slower.
const underRace = true
