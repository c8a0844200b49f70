// Package house holds the tests of how the packages stand to one another; it has no other code.
//
// docs/architecture.md describes the house and this package holds it: which package may import which, what the pure parts keep
// out of, that no cgo slips in, that every package says what it is for, and that no tracked file names a place on
// somebody's machine. Each rule has a reason, which its failure prints. To change the house, change the rule and its
// reason here, and the description there.
//
//	go test ./internal/house
package house
