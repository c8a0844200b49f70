module github.com/lockstep-ml/lockstep/core/cpu/_gen

go 1.26.0
