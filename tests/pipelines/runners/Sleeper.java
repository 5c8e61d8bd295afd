import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.sink.DiscardingSink;

/** A Flink job with a name that runs for a number of seconds. */
public class Sleeper {
  public static void main(String[] arguments) throws Exception {
    StreamExecutionEnvironment environment = StreamExecutionEnvironment.getExecutionEnvironment();
    environment.setParallelism(1);
    environment
        .fromSequence(1, Long.parseLong(arguments[1]))
        .map(Sleeper::sleep)
        .addSink(new DiscardingSink<>());
    environment.execute(arguments[0]);
  }

  private static Long sleep(Long second) throws InterruptedException {
    Thread.sleep(1000);
    return second;
  }
}
