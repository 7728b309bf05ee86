// RUN: kaoken-opt %s -t 'c{target=generic lower=false}' | filecheck %s

// Weights by offset, views of the arena, one kernel called twice.

builtin.module attributes {kaoken.name = "minilm"} {
  func.func private @copy_8(%x: memref<8xf32>, %y: memref<8xf32>) {
    affine.for %i = 0 to 8 {
      %v = memref.load %x[%i] : memref<8xf32>
      memref.store %v, %y[%i] : memref<8xf32>
    }
    func.return
  }
  func.func @main(%y: memref<8xf32>, %arena: memref<?xi8>) {
    %a = kaoken_loop.weight "a" : memref<8xf32>
    %b = kaoken_loop.weight "b" : memref<8xf32>
    %h = kaoken_loop.view %arena {offset = 4096 : i64} : memref<?xi8> -> memref<8xf32>
    func.call @copy_8(%a, %h) : (memref<8xf32>, memref<8xf32>) -> ()
    func.call @copy_8(%b, %h) : (memref<8xf32>, memref<8xf32>) -> ()
    func.call @copy_8(%h, %y) : (memref<8xf32>, memref<8xf32>) -> ()
    func.return
  }
}

// CHECK:      static void copy_8(const float *x, float *y)
// CHECK:      static void minilm_main(const unsigned char *weights, float *y, int8_t *arena)
// CHECK-NEXT: {
// CHECK-NEXT:     float *const h = (float *)(arena + 4096);
// CHECK-NEXT:     copy_8((const float *)weights, h);
// CHECK-NEXT:     copy_8((const float *)(weights + 64), h);
// CHECK-NEXT:     copy_8(h, y);
// CHECK-NEXT: }
