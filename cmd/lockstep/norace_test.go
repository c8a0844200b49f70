//go:build !race

package main

const underRace = false

// faultySteps is the length of runs that something happens to after their first steps: a second or two.
const faultySteps = 80
