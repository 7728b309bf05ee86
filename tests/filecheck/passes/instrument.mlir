// RUN: kaoken-opt %s -p instrument | filecheck %s
// RUN: kaoken-opt %s -p instrument,instrument | filecheck %s
// RUN: kaoken-opt %s -p instrument -t 'c{lower=false}' | filecheck %s --check-prefix=C

// Each call of a kernel has a timer; those of the layer are shared by its two calls.
// CHECK: kaoken.timers = [{kernel = "kernel", caller = "layer", flops = "8*tokens"}, {kernel = "kernel", caller = "main"}]

// CHECK-LABEL: func.func private @kernel
// CHECK-NOT: lap
func.func private @kernel(%x: memref<24xf32>, %team: !kaoken_loop.team) {
  return
}
// CHECK-LABEL: func.func private @layer
// CHECK-SAME: %timers: !kaoken_loop.timers
// CHECK:      func.call @kernel(%x, %team) : (memref<24xf32>, !kaoken_loop.team) -> ()
// CHECK-NEXT: kaoken_loop.lap %timers {timer = 0 : i64}
// CHECK-NEXT: kaoken_loop.barrier %team
// CHECK-NEXT: kaoken_loop.lap %timers {timer = 0 : i64, waited}
// C-LABEL: static void layer(const float *x, kk_team *team, kk_timers *timers)
// C:      kernel(x, team);
// C-NEXT: kk_lap(timers, 0);
// C-NEXT: kk_barrier(team);
// C-NEXT: kk_lap_waited(timers, 0);
func.func private @layer(%x: memref<24xf32>, %team: !kaoken_loop.team) {
  func.call @kernel(%x, %team) {kaoken.cost = {flops = "8*tokens"}} : (memref<24xf32>, !kaoken_loop.team) -> ()
  kaoken_loop.barrier %team
  return
}
// CHECK-LABEL: func.func @main
// CHECK:      func.call @layer(%x, %team, %timers)
// CHECK-NEXT: func.call @layer(%x, %team, %timers)
// CHECK-NEXT: func.call @kernel(%x, %team)
// CHECK-NEXT: kaoken_loop.lap %timers {timer = 1 : i64}
// CHECK-NEXT: return
func.func @main(%x: memref<24xf32>, %team: !kaoken_loop.team) {
  func.call @layer(%x, %team) : (memref<24xf32>, !kaoken_loop.team) -> ()
  func.call @layer(%x, %team) : (memref<24xf32>, !kaoken_loop.team) -> ()
  func.call @kernel(%x, %team) : (memref<24xf32>, !kaoken_loop.team) -> ()
  return
}
