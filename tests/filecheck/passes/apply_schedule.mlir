// RUN: kaoken-opt %s -p 'apply-schedule{target=x86-64-v4 file="linear when avx512 { panel(32) tile(m, 4) } relu { tile(h, 16) vectorize(h_in) }"}' | filecheck %s
// RUN: kaoken-opt %s -p 'apply-schedule{target=x86-64-v3 file="linear when avx512 { panel(32) } relu { parallel(m) }"}' | filecheck %s --check-prefix=V3
// RUN: not kaoken-opt %s -p 'apply-schedule{target=x86-64-v4 file="relu { tile(h, 16) vectorize(m, h_in) }"}' 2>&1 | filecheck %s --check-prefix=BAD
// RUN: kaoken-opt %s -p 'choose-schedule{target=x86-64-v4}' -t 'schedule{choose=false}' | filecheck %s --check-prefix=PRINT
// RUN: kaoken-opt %s -p 'choose-schedule{target=x86-64-v4 print=true}' 2>&1 | filecheck %s --check-prefix=PRINT

// BAD:      error: schedule:1:20: vectorize(m, h_in) for relu n=48: h_in is not alone in, and right inside, m
// BAD-NEXT:     relu { tile(h, 16) vectorize(m, h_in) }
// BAD-NEXT: {{^                       }}^^^^^^^^^

// PRINT:      linear k=24 n=48 {
// PRINT-NEXT:     panel(16)
// PRINT-NEXT:     tile(m, 512)
// PRINT:      relu n=48 {
// PRINT-NEXT:     tile(h, 48)
// PRINT-NEXT:     vectorize(h_in)
// PRINT-NEXT:     parallel(m)
// PRINT-NEXT: }

func.func @main(%x: tensor<?x24xf32> {kaoken.shape = #kaoken.shape<[tokens, 24]>}) -> tensor<?x48xf32> attributes {kaoken.max = {tokens = 512}} {
  %w = kaoken.weight "w" : tensor<48x24xf32>
  // CHECK: kaoken.linear
  // CHECK-SAME: {schedule = #kaoken.schedule<panel(32), tile(m, 4)>}
  // V3: kaoken.linear %x, %w : tensor
  %y = kaoken.linear %x, %w : tensor<?x24xf32>, tensor<48x24xf32> -> tensor<?x48xf32>
  // What a person gives counts, also where the op had a schedule.
  // CHECK: kaoken.relu
  // CHECK-SAME: {schedule = #kaoken.schedule<tile(h, 16), vectorize(h_in)>}
  // V3: kaoken.relu
  // V3-SAME: {schedule = #kaoken.schedule<parallel(m)>}
  %z = kaoken.relu %y {schedule = #kaoken.schedule<tile(h, 48), vectorize(h_in), parallel(m)>} : tensor<?x48xf32> -> tensor<?x48xf32>
  return %z : tensor<?x48xf32>
}
