// RUN: kaoken-opt %s -p plan-memory | filecheck %s
// RUN: kaoken-opt %s -p plan-memory,plan-memory | filecheck %s

// States come first in the arena. What their ops tell of their parts is kept in the module, with
// offsets into the arena: for saving as many of their bytes as there are tokens.
// CHECK: kaoken.state_bytes = 29184 : i64
// CHECK-SAME: kaoken.caches = {values = [array<i64: 0, 2, 6400, 1, 64>], keys = [array<i64: 12800, 2, 8192, 64, 4096>]}

// CHECK-LABEL: func.func @main
// CHECK:      %values = kaoken_loop.view %arena : memref<?xi8> -> memref<2x100x16xf32>
// CHECK:      %keys = kaoken_loop.view %arena {offset = 12800 : i64} : memref<?xi8> -> memref<2x2x16x64xf32>
func.func private @kernel(%x: memref<2x100x16xf32>, %y: memref<2x2x16x64xf32>) {
  return
}
func.func @main(%tokens: index {kaoken.name = "tokens"}) attributes {kaoken.max = {tokens = 512}} {
  %values = kaoken_loop.state "values" {parts = [array<i64: 0, 2, 6400, 1, 64>]} : memref<2x100x16xf32>
  %keys = kaoken_loop.state "keys" {parts = [array<i64: 0, 2, 8192, 64, 4096>]} : memref<2x2x16x64xf32>
  func.call @kernel(%values, %keys) : (memref<2x100x16xf32>, memref<2x2x16x64xf32>) -> ()
  return
}
