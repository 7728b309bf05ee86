// RUN: kaoken-opt %s -p plan-memory | filecheck %s
// RUN: kaoken-opt %s -p plan-memory,plan-memory | filecheck %s

// %a and %c never live at once, %b overlaps both. %d takes over the place of %c, which its kernel
// reads for the last time and may overwrite. The lower bound is met.
// CHECK: kaoken.arena_bytes = 6144 : i64, kaoken.arena_lower_bound = 6144 : i64

// CHECK-LABEL: func.func private @kernel
func.func private @kernel(%x: memref<?xf32>, %y: memref<?xf32>) {
  return
}
func.func private @in_place(%x: memref<?xf32> {kaoken.in_place = 1 : i64}, %y: memref<?xf32>) {
  return
}

// CHECK-LABEL: func.func @main
// CHECK-SAME: %arena: memref<?xi8>
// CHECK:      %a = kaoken_loop.view %arena : memref<?xi8> -> memref<?xf32>
// CHECK:      %b = kaoken_loop.view %arena {offset = 4096 : i64} : memref<?xi8> -> memref<?xf32>
// CHECK:      %c = kaoken_loop.view %arena : memref<?xi8> -> memref<?xf32>
// CHECK:      %d = kaoken_loop.view %arena : memref<?xi8> -> memref<?xf32>
func.func @main(%x: memref<?xf32>, %y: memref<?xf32>, %tokens: index {kaoken.name = "tokens"}) attributes {kaoken.max = {tokens = 512}} {
  %two = arith.constant 2 : index
  %twice = arith.muli %tokens, %two : index
  %a = memref.alloc(%twice) : memref<?xf32>
  func.call @kernel(%x, %a) : (memref<?xf32>, memref<?xf32>) -> ()
  %b = memref.alloc(%tokens) : memref<?xf32>
  func.call @kernel(%a, %b) : (memref<?xf32>, memref<?xf32>) -> ()
  %c = memref.alloc(%twice) : memref<?xf32>
  func.call @kernel(%b, %c) : (memref<?xf32>, memref<?xf32>) -> ()
  %d = memref.alloc(%twice) : memref<?xf32>
  func.call @in_place(%c, %d) : (memref<?xf32>, memref<?xf32>) -> ()
  func.call @kernel(%d, %y) : (memref<?xf32>, memref<?xf32>) -> ()
  return
}
