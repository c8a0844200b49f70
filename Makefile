# Targets beyond README's two commands. `make help` lists them.
.PHONY: help build image test race generic cross lint generate soak data-soak fuzz bench bench-net jaeger-check

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/'

build: ## one static binary, ./lockstep
	CGO_ENABLED=0 go build -o lockstep ./cmd/lockstep

VERSION ?= $(shell git describe --always --dirty 2>/dev/null || echo dev)
ARCH ?= $(shell go env GOARCH)
image: ## a container image without a daemon, ./lockstep-VERSION-ARCH.oci.tar; VERSION and ARCH may be given
	CGO_ENABLED=0 GOOS=linux GOARCH=$(ARCH) go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o lockstep-linux-$(ARCH) ./cmd/lockstep
	go run ./cmd/ociimage -binary lockstep-linux-$(ARCH) -version $(VERSION) -out lockstep-$(VERSION)-$(ARCH).oci.tar

test: ## what README's test command runs
	go test ./...

race: ## the race detector, without the long engine tests
	.ci/race

generic: ## the engine's kernels without assembly
	LOCKSTEP_SIMD=generic go test -short ./core/cpu/...

cross: ## the platforms that nobody here has at hand
	for p in linux/arm64 darwin/arm64; do CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/} go build -o /dev/null ./cmd/lockstep && GOOS=$${p%/*} GOARCH=$${p#*/} go vet ./... || exit 1; done

lint: ## gofmt, vet, staticcheck
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "gofmt wants to change the files above"; exit 1; }
	go vet ./...
	go tool -modfile=internal/tools/go.mod staticcheck ./...

generate: ## regenerate what is generated: protocol buffers, assembly, the built-in sample
	go generate ./...

fuzz: ## every fuzz target for 20 s
	.ci/fuzz 20s

soak: ## 200 faults of every kind, in runs of real processes, and the bits and samples of the undisturbed one; an hour or two. As root links and disk fail too
	@test "$$(id -u)" = 0 || echo "not root: faults of links and disk are left out; sudo make soak has them"
	.ci/chaos 20
	.ci/soak full

data-soak: ## resnet18 on 4,000 photographs, from a file and from an S3 server that errs, killed and resumed; a quarter of an hour, needs ../shared
	LOCKSTEP_DATA_SOAK=1 go test -count=1 -timeout 3h -v -run '^TestDataSoak$$' ./cmd/lockstep

bench: ## the engine on this machine
	go run ./cmd/lockstep bench engine

bench-net: ## the all-reduce over emulated links of 1 and 10 Gbit/s and up to 20 ms; Linux, root; some 4 minutes, 10 at most
	@test "$$(id -u)" = 0 || { echo "bench-net makes network namespaces, which needs root: sudo make bench-net"; exit 1; }
	go run ./cmd/lockstep bench network --json
