// RUN: kaoken-opt %s -t 'c{target=generic lower=false}' | filecheck %s

// Scalar loops as lower-to-loops leaves them.

func.func private @linear_768x3072(%x: memref<?x768xf32>, %w: memref<768x3072xf32>, %b: memref<3072xf32>, %y: memref<?x3072xf32>, %rows: index) attributes {kaoken.comment = "y = relu(x W + b)"} {
  affine.for %m = 0 to %rows {
    affine.for %n = 0 to 3072 {
      %bias = memref.load %b[%n] : memref<3072xf32>
      %sum = affine.for %k = 0 to 768 iter_args(%acc = %bias) -> (f32) {
        %xv = memref.load %x[%m, %k] : memref<?x768xf32>
        %wv = memref.load %w[%k, %n] : memref<768x3072xf32>
        %f = math.fma %xv, %wv, %acc : f32
        affine.yield %f : f32
      }
      %zero = arith.constant 0.0 : f32
      %r = arith.maximumf %sum, %zero : f32
      memref.store %r, %y[%m, %n] : memref<?x3072xf32>
    }
  }
  func.return
}

// CHECK:      #include <stdint.h>
// CHECK:      static inline float kk_fma_f32(float a, float b, float c)
// CHECK-NEXT: {
// CHECK-NEXT:     return a * b + c;
// CHECK-NEXT: }
// CHECK:      static inline float kk_max_f32(float a, float b)
// CHECK:      /* y = relu(x W + b) */
// CHECK-NEXT: static void linear_768x3072(const float *x, const float *w, const float *b, float *y, int64_t rows)
// CHECK-NEXT: {
// CHECK-NEXT:     for (int64_t m = 0; m < rows; m++) {
// CHECK-NEXT:         for (int64_t n = 0; n < 3072; n++) {
// CHECK-NEXT:             float sum = b[n];
// CHECK-NEXT:             for (int64_t k = 0; k < 768; k++) {
// CHECK-NEXT:                 sum = kk_fma_f32(x[m * 768 + k], w[k * 3072 + n], sum);
// CHECK-NEXT:             }
// CHECK-NEXT:             y[m * 3072 + n] = kk_max_f32(sum, 0.0f);
// CHECK-NEXT:         }
// CHECK-NEXT:     }
// CHECK-NEXT: }
