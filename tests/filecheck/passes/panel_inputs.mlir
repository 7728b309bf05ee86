// RUN: kaoken-opt %s -p 'quantize{dtype=bf16},panel-inputs' | filecheck %s
// RUN: kaoken-opt %s -p 'quantize{dtype=bf16},panel-inputs,panel-inputs' | filecheck %s
// RUN: kaoken-opt %s -p 'quantize{dtype=bf16},panel-inputs,lower-to-loops' | filecheck %s --check-prefix=LOOPS
// RUN: kaoken-opt %s -p 'quantize{dtype=bf16},panel-inputs,tensorize' | filecheck %s --check-prefix=TILES
// RUN: kaoken-opt %s -p 'quantize{dtype=bf16},panel-inputs,plan-memory' -t 'c{target="x86-64-v4+bf16+amx"}' | filecheck %s --check-prefix=C

// What the matrix unit alone reads lies in panels of 16 words; results of @main lie in rows.
module attributes {kaoken.target = "x86-64-v4+bf16+amx"} {
func.func @main(%x: tensor<?x64xf32> {kaoken.shape = #kaoken.shape<[rows, 64]>}) -> tensor<?x64xf32> attributes {kaoken.max = {rows = 200}} {
  %v = arith.constant dense<0.5> : tensor<64x64xf32>
  %w = arith.constant dense<0.25> : tensor<64x64xf32>
  // CHECK: %[[c:.*]] = kaoken.cast %x {{.*}}kaoken.panel = 32 : i64
  // CHECK: %[[h:.*]] = kaoken.linear %[[c]]{{.*}}kaoken.panel = 32 : i64
  %h = kaoken.linear %x, %v : tensor<?x64xf32>, tensor<64x64xf32> -> tensor<?x64xf32>
  // CHECK: kaoken.linear %[[h]]
  // CHECK-NOT: kaoken.panel
  %y = kaoken.linear %h, %w : tensor<?x64xf32>, tensor<64x64xf32> -> tensor<?x64xf32>
  func.return %y : tensor<?x64xf32>
}
}

// LOOPS-LABEL: func.func private @cast_to_bf16(
// LOOPS-SAME:    %m: index {kaoken.name = "m"}, %x: memref<?x64xf32>, %y: memref<2x?x32xbf16>
// LOOPS:         memref.store %{{.*}}, %y[%h0, %m{{.*}}, %h] : memref<2x?x32xbf16>
// LOOPS-LABEL: func.func private @linear_64x64_bf16_to_bf16(
// LOOPS-SAME:    %x: memref<2x?x16xi32> {kaoken.shape = #kaoken.shape<[2, m, 16]>}, %w: memref<2x32x32xi32>, %y: memref<2x?x32xbf16>
// LOOPS:         %[[panel:.*]] = affine.apply affine_map<(d0) -> ((d0 floordiv 16))> (%k)
// LOOPS-NEXT:    %[[column:.*]] = affine.apply affine_map<(d0) -> ((d0 mod 16))> (%k)
// LOOPS-NEXT:    memref.load %x[%[[panel]], %{{.*}}, %[[column]]] : memref<2x?x16xi32>

// TILES-LABEL: func.func private @linear_64x64_bf16_to_bf16(
// TILES:         kaoken_loop.contract bf16 %x[%[[c0:.*]], %{{.*}}, %[[c0]]], %w[%{{.*}}, %{{.*}}, %{{.*}}] into
// TILES-SAME:      lhs_in_panels

// 16 rows of a tile are one piece of memory.
// C-LABEL: static void linear_64x64_bf16_to_bf16(
// C:         _tile_loadd(4, &x[(k / 16 * m + m_2 + m_in + i) * 16], 64);
